"""Known cameras in COLMAP's mapper: held intrinsics, and a start from the given poses."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pycolmap

from .values import Given


def group_key(given: Given, index: int) -> tuple | None:
    """What two photos must have in common to share a camera; None where nothing is known."""
    entry = given.views.get(index)
    if entry is None or entry.K is None:
        return None
    return ("known", entry.K.tobytes(), entry.intrinsics_trust.sigma)


def known_camera(K: np.ndarray, height: int, width: int) -> pycolmap.Camera:
    """A pinhole whose principal point stays; with one focal length where K has one."""
    if K[0, 0] == K[1, 1]:
        model, params = "SIMPLE_PINHOLE", [K[0, 0], K[0, 2], K[1, 2]]
    else:
        model, params = "PINHOLE", [K[0, 0], K[1, 1], K[0, 2], K[1, 2]]
    camera = pycolmap.Camera(model=model, width=width, height=height, params=params)
    camera.has_prior_focal_length = True
    return camera


def hold_known(
    settings: pycolmap.IncrementalPipelineOptions, database_path: Path, given: Given
) -> None:
    """Tell the mapper which cameras are fixed; image i of the photos is image i + 1 there."""
    with pycolmap.Database.open(database_path) as database:
        cameras = {image.image_id - 1: image.camera_id for image in database.read_all_images()}
    fixed = {cameras[i] for i, entry in given.views.items() if entry.fixed_K is not None}
    settings.constant_cameras = fixed


def seed_model(
    database_path: Path,
    folder: Path,
    given: Given,
    settings: pycolmap.IncrementalPipelineOptions,
) -> Path | None:
    """Triangulate from the photos with fixed poses; a model folder for the mapper to go on from.

    Returns:
        The folder; None with fewer than two such photos, or where they share no points.
    """
    poses = given.fixed_poses
    if len(poses) < 2:
        return None
    model = pycolmap.Reconstruction()
    with pycolmap.Database.open(database_path) as database:
        for camera in database.read_all_cameras():
            model.add_camera(camera)
        for rig in database.read_all_rigs():
            model.add_rig(rig)
        for frame in database.read_all_frames():
            pose = poses.get(frame.frame_id - 1)
            if pose is not None:
                frame.rig_from_world = pycolmap.Rigid3d(pose[:3])
            model.add_frame(frame)
        for image in database.read_all_images():
            image.points2D = pycolmap.Point2DList(
                [pycolmap.Point2D(xy) for xy in database.read_keypoints(image.image_id)[:, :2]]
            )
            model.add_image(image)
    for index in sorted(poses):
        model.register_frame(index + 1)
    target = folder / "given"
    target.mkdir()
    triangulated = pycolmap.triangulate_points(
        model, database_path, folder, target, options=settings, refine_intrinsics=False
    )
    if triangulated.num_points3D() < settings.mapper.abs_pose_min_num_inliers:
        return None
    triangulated.write(target)
    return target


def weigh_focals(model: pycolmap.Reconstruction, given: Given) -> None:
    """Average adjusted focal lengths with their priors by inverse variances; adjust the rest again.

    The variance of an adjusted focal length is that of the bundle adjustment, all else eliminated.
    """
    entries = {i: given.views[i - 1] for i in model.reg_image_ids() if i - 1 in given.intrinsics}
    priors = {
        model.image(i).camera_id: entry
        for i, entry in entries.items()
        if not entry.intrinsics_trust.fixed
    }
    if not priors:
        return
    adjuster = bundle_adjuster(model, given)
    solved = adjuster.solve()
    assert isinstance(solved, pycolmap.CeresBundleAdjustmentSummary)
    summary = solved.ceres_summary
    freedom = summary.num_residuals - summary.num_effective_parameters
    options = pycolmap.BACovarianceOptions()
    covariance = pycolmap.estimate_ba_covariance(options, model, adjuster)
    if covariance is None or freedom <= 0:
        return
    noise2 = 2 * summary.final_cost / freedom
    for camera_id, entry in priors.items():
        camera = model.camera(camera_id)
        own = covariance.get_other_params_cov(camera.params)
        if own is None or entry.K is None:
            continue
        params, focals = camera.params.copy(), camera.focal_length_idxs()
        expected = np.diag(entry.K)[: len(focals)]
        variance = noise2 * np.diag(own)[: len(focals)]
        weight = variance / (variance + entry.intrinsics_trust.sigma**2)  # of the prior
        params[focals] += weight * (expected - params[focals])
        camera.params = params.tolist()
    bundle_adjuster(model, given, set(priors)).solve()
    model.update_point_3d_errors()


def bundle_adjuster(
    model: pycolmap.Reconstruction, given: Given, held: Collection[int] = ()
) -> pycolmap.CeresBundleAdjuster:
    """Bundle adjustment of a model with what is fixed, and the cameras `held`, constant."""
    config = pycolmap.BundleAdjustmentConfig()
    poses = [i + 1 for i in given.fixed_poses if i + 1 in model.reg_image_ids()]
    for image_id in model.reg_image_ids():
        config.add_image(image_id)
        entry = given.views.get(image_id - 1)
        camera_id = model.image(image_id).camera_id
        if camera_id in held or (entry is not None and entry.fixed_K is not None):
            config.set_constant_cam_intrinsics(camera_id)
    if len(poses) > 1:
        for image_id in poses:
            config.set_constant_rig_from_world_pose(image_id)
    else:
        config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    options = pycolmap.BundleAdjustmentOptions()
    options.print_summary = False
    options.ceres.solver_options.num_threads = 1
    return pycolmap.create_default_ceres_bundle_adjuster(options, config, model)
