"""User data: what an instance runs when it starts: its variables, then bootstrap.sh."""

import shlex
from pathlib import Path

from cloud.run_record import Attempt, RunPlan

BOOTSTRAP = Path(__file__).with_name("bootstrap.sh")
MOST_BYTES = 16 << 10  # that EC2 takes


def user_data(plan: RunPlan, attempt: Attempt) -> str:
    """The same text for the same arguments, below 16 KB, with no secret in it.

    Whoever may look at the instance can read it.
    """
    limits = plan.limits
    variables = {
        "ADGAME_RUN": plan.run,
        "ADGAME_BUCKET": plan.bucket,
        "ADGAME_ATTEMPT": attempt.number,
        "ADGAME_CODE_SHA256": plan.code_sha256,
        "ADGAME_MAX_MINUTES": attempt.max_minutes,
        "ADGAME_SET_UP_MINUTES": f"{limits.set_up_minutes:g}",
        "ADGAME_FINAL_UPLOAD_SECONDS": f"{limits.final_upload_seconds:g}",
        "AWS_DEFAULT_REGION": plan.region,
    }
    lines = [f"export {name}={shlex.quote(str(value))}" for name, value in variables.items()]
    text = "\n".join(["#!/usr/bin/env bash", *lines, BOOTSTRAP.read_text()])
    assert len(text.encode()) < MOST_BYTES, f"{BOOTSTRAP.name} has grown too long for EC2"
    return text
