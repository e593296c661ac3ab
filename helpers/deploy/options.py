"""The options of :class:`Scaling` on a command line, for every command that takes them (notebook 09)."""

import argparse

from helpers.deploy.scaling import Scaling

_NUMBERS = {
    "min_replicas": (int, "N", "replicas that stay without any load; 0 lets the last one end"),
    "max_replicas": (int, "N", "replicas that there may be, each on GPUs of its own"),
    "target_ongoing": (float, "R", "requests in flight for each replica that the autoscaler aims at"),
    "max_ongoing": (int, "N", "requests that a replica takes at once (default: the recipe's batch)"),
    "upscale_delay": (float, "S", "seconds of load before replicas are added"),
    "downscale_delay": (float, "S", "seconds of less load before some are ended"),
    "to_zero_delay": (float, "S", "the same for the last one"),
}


def add_to(command: argparse.ArgumentParser, own: Scaling) -> None:
    """Give a command an option for each.

    Args:
        command: to be given them.
        own: what holds where an option is missing.
    """
    group = command.add_argument_group("scaling")
    for name, (kind, mark, about) in _NUMBERS.items():
        value = getattr(own, name)
        default = f" (default: {value:g})" if value is not None else ""
        group.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar=mark, help=f"{about}{default}")


def scaling_of(asked: argparse.Namespace, own: Scaling) -> Scaling:
    """What the options say, and ``own`` where one is missing.

    Raises:
        WorkshopError: a value that makes no sense.
    """
    return own.with_(**{name: value for name in _NUMBERS if (value := getattr(asked, name)) is not None})
