"""What a package of your own needs to declare steps: one import path, kept stable (docs/custom-steps.md)."""

from services.steps.base import (
    Example,
    Record,
    Reject,
    RetryableStepError,
    Step,
    StepConfig,
    StepError,
    StepOutput,
    step,
)

__all__ = ["Example", "Record", "Reject", "RetryableStepError", "Step", "StepConfig", "StepError", "StepOutput", "step"]
