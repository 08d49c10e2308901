"""The limit of a distribution, from the plan: ``NAME_ms`` is held against ``NAME_max_ms``."""

from plasmacloud.lab.html.frame import Scene


def limit_ms(scene: Scene | None, metric: str) -> float | None:
    """The threshold in milliseconds; None where there is none."""
    if scene is None:
        return None
    settings = scene.view.settings
    limit = settings.thresholds.get(metric.removesuffix("_ms") + "_max_ms")
    timeouts = settings.thresholds.get(metric.removesuffix("_ms") + "_max_election_timeouts")
    if limit is None and timeouts is not None:
        return timeouts * settings.traits.election_timeout_ms or None
    return limit
