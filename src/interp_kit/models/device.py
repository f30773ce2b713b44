"""Check that there is the device that an option names."""

import warnings


def check_device(device: str | None) -> None:
    """Refuse a device that torch cannot compute on.

    Args:
        device: As torch names it: cpu, cuda, cuda:1, mps. None is for whoever chooses one later.

    Raises:
        ValueError: Naming the device and torch's reason.
    """
    if device is None:
        return
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch comments on old names and then refuses them
            torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        raise ValueError(f"device {device!r} cannot be used: {reason}; try cpu, cuda, cuda:1 or mps") from error
