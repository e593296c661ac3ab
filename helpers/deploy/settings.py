"""What each setting of the scaling did in a run: its value beside what was measured (notebook 09). Pure.

The autoscaler counts requests in flight every ``interval``, averages them over ``look_back`` and decides several times
a second; a decision for more or fewer replicas has to stand for its delay before it counts. So what is measured from
the load's own change is at least the delay, and up to ``look_back`` and ``interval`` more.
"""

from typing import TYPE_CHECKING

from helpers.cards import Table
from helpers.deploy.steps import Steps, both, since

if TYPE_CHECKING:
    from helpers.deploy.scaling import Scaling
    from helpers.deploy.timeline import Scaled, Timeline

_LOOKS = 0.3  # seconds: how often replicas are looked at, and decided on


def settings_table(timeline: "Timeline", scaling: "Scaling") -> Table:
    """One row a setting.

    Args:
        timeline: the run.
        scaling: what was asked for.
    """
    delays = "in the delays above"
    rows = [
        ["min_replicas", f"{scaling.min_replicas}", _least(timeline, scaling)],
        ["max_replicas", f"{scaling.max_replicas}", _most(timeline, scaling)],
        ["target_ongoing", f"{scaling.target_ongoing:g}", _target(timeline, scaling)],
        ["max_ongoing", _whole(scaling.max_ongoing), _places(timeline, scaling)],
        ["upscale_delay", f"{scaling.upscale_delay:g} s", _up(timeline, scaling)],
        ["downscale_delay", f"{scaling.downscale_delay:g} s", _down(timeline, scaling)],
        ["to_zero_delay", f"{scaling.last_delay:g} s", _last(timeline, scaling)],
        ["look_back", f"{scaling.look_back:g} s", f"{delays}: requests in flight are averaged over it"],
        ["interval", f"{scaling.interval:g} s", f"{delays}: {_counts(scaling)} make an average"],
    ]
    note = (
        "Delays are measured from the change of the load itself. They are expected to be the setting, or up to "
        "look_back and interval more."
    )
    return Table(("setting", "value", "in this run"), rows, "Measured: what each setting did", note, ("setting",))


def _whole(value: int | None) -> str:
    return "engine's batch limit" if value is None else f"{value}"


def _counts(scaling: "Scaling") -> str:
    counts = max(1, round(scaling.look_back / scaling.interval))
    return "1 count" if counts == 1 else f"{counts} counts"


def _least(timeline: "Timeline", scaling: "Scaling") -> str:
    running = timeline.observed.moments[-1].running
    if not timeline.settled():
        return f"{running} running when it was last looked at, and not at rest yet"
    return f"{running} running when it had come to rest"


def _most(timeline: "Timeline", scaling: "Scaling") -> str:
    most = int(timeline.running.most(0.0, timeline.ends))
    if most < scaling.max_replicas:
        return f"at most {most} running: the limit was not reached"
    if most > scaling.max_replicas:
        return f"at most {most} running, which is more than it allows"
    wanted = timeline.in_flight.most(0.0, timeline.ends) / scaling.target_ongoing
    more = f"; {wanted:.1f} times the target were in flight at the peak" if wanted > most else ""
    return f"{most} running at most: reached{more}"


def above(timeline: "Timeline", scaling: "Scaling", replicas: int | None = None) -> Steps:
    """1 while more requests are in flight than aimed at: for those running, or for so many replicas."""
    target = scaling.target_ongoing
    if replicas is not None:
        flight = timeline.in_flight
        return Steps(flight.times, [int(value > target * replicas) for value in flight.values])
    return both(timeline.in_flight, timeline.running, lambda flight, running: int(flight > target * running))


def _target(timeline: "Timeline", scaling: "Scaling") -> str:
    ends = timeline.last_ended
    over = sum(end - begin for begin, end, value in above(timeline, scaling).pieces(0.0, ends) if value)
    most = timeline.in_flight.most(0.0, ends)
    held = f"more in flight than that for each running replica in {over:.1f} of {ends:.1f} s"
    return (
        f"{held}; {most:.0f} at most" if over else f"never more in flight for each running replica; {most:.0f} at most"
    )


def _places(timeline: "Timeline", scaling: "Scaling") -> str:
    """How many requests a replica had, as far as it can be told from all of them."""
    each = both(timeline.in_flight, timeline.running, lambda flight, running: flight / running if running else 0)
    most = each.most(0.0, timeline.ends)
    told = f"at most {most:.3g} in flight for each running replica"
    if scaling.max_ongoing is None:
        return told
    limit = scaling.max_ongoing
    waiting = both(timeline.in_flight, timeline.running, lambda flight, running: max(0, flight - limit * running))
    front = waiting.most(0.0, timeline.ends)
    if not front:
        return f"{told}: none had to wait for a place"
    return f"{told}; up to {front:.0f} waited in front of the replicas, those before the first one ran included"


def _up(timeline: "Timeline", scaling: "Scaling") -> str:
    """From the load's going above the target for one replica to the second one's being asked for."""
    asked = timeline.asked_for(2)
    if asked is None:
        return "no second replica was asked for" if timeline.existing[1] < 2 else "two were there from the begin"
    begun = since(above(timeline, scaling, 1), asked, scaling.look_back)
    if begun is None:
        return f"second replica asked for at {asked:.1f} s, with no more in flight than aimed at for one"
    told = f"second replica asked for {asked - begun:.1f} s after the load went above the target for one"
    return told + _judged(asked - begun, scaling.upscale_delay, scaling)


def _down(timeline: "Timeline", scaling: "Scaling") -> str:
    """From the load's falling to what fewer replicas can have, to the first one's end."""
    event = next((one for one in timeline.scaled if one.after < one.before and one.after >= 1), None)
    if event is None:
        return "no replica but the last was taken away" if _to_zero(timeline) else "no replica was taken away"
    fits = above(timeline, scaling, event.after)
    fewer = Steps([min(0.0, *timeline.running.times), *fits.times], [1, *(1 - value for value in fits.values)])
    begun = since(fewer, event.at, scaling.look_back)
    went = f"from {event.before} to {event.after}"
    if begun is None:
        return f"{went} at {event.at:.1f} s, with more in flight than aimed at for so few"
    told = f"{went} {event.at - begun:.1f} s after the load had fallen to the target for {event.after}"
    return told + _judged(event.at - begun, scaling.downscale_delay, scaling)


def _to_zero(timeline: "Timeline") -> "Scaled | None":
    return next((one for one in reversed(timeline.scaled) if one.after == 0), None)


def _last(timeline: "Timeline", scaling: "Scaling") -> str:
    """From the last answer before it to the last replica's end."""
    if scaling.min_replicas > 0:
        return f"not used: {scaling.min_replicas} kept"
    event = _to_zero(timeline)
    if event is None:
        return "the last replica was not taken away while it was looked at"
    ended = [row.ended for row in timeline.rows if row.ended is not None and row.ended <= event.at]
    if not ended or timeline.in_flight.at(event.at) > 0:
        return f"none running at {event.at:.1f} s, with requests in flight"
    took = event.at - max(ended)
    return f"last replica taken away {took:.1f} s after the last answer" + _judged(took, scaling.last_delay, scaling)


def _judged(took: float, delay: float, scaling: "Scaling") -> str:
    """How a measured delay stands to the setting."""
    most = delay + scaling.look_back + scaling.interval + _LOOKS
    if took < delay - _LOOKS:
        return f": sooner than the {delay:g} s asked for"
    if took > most:
        return f": {took - most:.1f} s more than delay, look_back and interval explain"
    return f": as expected ({delay:g} to {most:.1f} s)"
