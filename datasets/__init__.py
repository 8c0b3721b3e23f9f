"""Data sets of posed multi-view scenes: the view contract and the procedural generator."""

if __name__ == "datasets":  # the working directory is hiding Hugging Face's `datasets`
    raise ImportError("this folder is weav3r.datasets; run Python with -P or from another folder")
