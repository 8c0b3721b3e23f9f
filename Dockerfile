# The demo in a container: no root, no network at run time, nothing written but /tmp.
#   docker build -t weav3r-demo .                             CPU
#   docker build -t weav3r-demo:cuda --build-arg TORCH=cuda . NVIDIA GPU
# compose.yaml runs it closed up further.
ARG PYTHON_IMAGE=python:3.12.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ARG TORCH=cpu
# The folder `datasets` must not hide packages of that name.
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONSAFEPATH=1
RUN python -m venv /opt/weav3r
WORKDIR /source
# The large packages change seldom and have a layer of their own.
COPY constraints.txt ./
RUN case "$TORCH" in \
      cpu) set -- --index-url https://download.pytorch.org/whl/cpu ;; \
      cuda) set -- ;; \
      *) echo "TORCH must be cpu or cuda, got $TORCH" >&2; exit 2 ;; \
    esac \
    && /opt/weav3r/bin/pip install --no-cache-dir -c constraints.txt "$@" torch
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY croco_like ./croco_like
COPY datasets ./datasets
COPY demo ./demo
COPY evaluation ./evaluation
COPY geometry ./geometry
COPY inference ./inference
COPY models ./models
COPY src ./src
COPY train ./train
RUN /opt/weav3r/bin/pip install --no-cache-dir -c constraints.txt ".[demo,viewer]"

FROM ${PYTHON_IMAGE}
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin weav3r
COPY --from=build /opt/weav3r /opt/weav3r
ENV PATH=/opt/weav3r/bin:$PATH \
    HOME=/tmp \
    HF_HUB_OFFLINE=1 \
    OMP_WAIT_POLICY=PASSIVE \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /tmp
USER 10001:10001
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=10s --start-period=90s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:7860/', timeout=8)"]
ENTRYPOINT ["weav3r"]
# All addresses of the container; who reaches those is for `docker run -p` to say.
CMD ["demo", "--offline", "--host", "0.0.0.0", "--port", "7860"]
