"""Record runs in MLflow: the only room that imports it.

A run's process appends to a journal on disk, which a second process, the recorder, delivers to MLflow. So training
never waits for MLflow, and the recorder closes a run whose process was killed.
"""

from torchmill.components.tracking.champions import CHALLENGER, CHAMPION, Champions, ModelVersion, find_version
from torchmill.components.tracking.client import destination, server_address, silence_mlflow
from torchmill.components.tracking.contests import Contest, Contests
from torchmill.components.tracking.database import (
    check_database,
    create_database,
    former_addresses,
    map_tables,
    relocate,
)
from torchmill.components.tracking.environment import environment_tags
from torchmill.components.tracking.experiments import VIEW
from torchmill.components.tracking.model_requests import Standing, promote, register, standing
from torchmill.components.tracking.recorded_runs import (
    attach_file,
    close_run,
    fetch_file,
    fetch_snapshot,
    find_run,
    is_registered,
    running_runs,
    still_recorded,
    tag_run,
)
from torchmill.components.tracking.recorder import (
    RECORDER_IMPORTS,
    deliver_pending,
    mend_journals,
    pending_runs,
    run_recorder,
)
from torchmill.components.tracking.recorder_process import adopt_recorder, cool_down, warm_up
from torchmill.components.tracking.records import Progress, Status
from torchmill.components.tracking.registry import (
    all_contests,
    contests_of,
    count_contest,
    onnx_file,
    roll_back,
    set_champion,
    tag_version,
    trained_on_file,
    versions,
)
from torchmill.components.tracking.run_log import (
    begin_step,
    end_run,
    flush,
    log_dataset,
    log_error,
    log_files,
    log_metrics,
    log_params,
    log_step,
    log_tags,
    open_run,
    recorded_metrics,
    recorded_steps,
    replay,
)
from torchmill.components.tracking.ui import ui_command, ui_environment

__all__ = [
    "CHALLENGER",
    "CHAMPION",
    "RECORDER_IMPORTS",
    "VIEW",
    "Champions",
    "Contest",
    "Contests",
    "ModelVersion",
    "Progress",
    "Standing",
    "Status",
    "adopt_recorder",
    "all_contests",
    "attach_file",
    "begin_step",
    "check_database",
    "close_run",
    "contests_of",
    "cool_down",
    "count_contest",
    "create_database",
    "deliver_pending",
    "destination",
    "end_run",
    "environment_tags",
    "fetch_file",
    "fetch_snapshot",
    "find_run",
    "find_version",
    "flush",
    "former_addresses",
    "is_registered",
    "log_dataset",
    "log_error",
    "log_files",
    "log_metrics",
    "log_params",
    "log_step",
    "log_tags",
    "map_tables",
    "mend_journals",
    "onnx_file",
    "open_run",
    "pending_runs",
    "promote",
    "recorded_metrics",
    "recorded_steps",
    "register",
    "relocate",
    "replay",
    "roll_back",
    "run_recorder",
    "running_runs",
    "server_address",
    "set_champion",
    "silence_mlflow",
    "standing",
    "still_recorded",
    "tag_run",
    "tag_version",
    "trained_on_file",
    "ui_command",
    "ui_environment",
    "versions",
    "warm_up",
]
