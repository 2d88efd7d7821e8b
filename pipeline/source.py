"""Source: where the pipeline's recordings are, the demo set where there are none yet."""

import os
from pathlib import Path

from cloud.s3 import S3Folder
from pipeline.steps import Pipeline
from utils.fetching import FETCHED
from utils.recordings import list_videos
from utils.sources import Folder, Source, open_source
from utils.training_data import DEFAULT_DATA_DIR


def open_recordings(pipeline: Pipeline) -> Source:
    """The user's recordings, or the demo set where the default folder has none."""
    if is_demo(pipeline):
        return Folder(demo_folder(pipeline))
    settings = pipeline.settings
    return open_source(settings.data_dir, Path(settings.cache_dir, FETCHED), S3Folder)


def is_demo(pipeline: Pipeline) -> bool:
    own = pipeline.settings.data_dir
    if own != DEFAULT_DATA_DIR:
        return False
    return not os.path.isdir(own) or next(list_videos(Path(own)), None) is None


def demo_folder(pipeline: Pipeline) -> Path:
    return Path(pipeline.settings.cache_dir, "demo")
