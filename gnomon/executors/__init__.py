"""Where shards are worked on. Names only; an executor is imported when it is asked for."""

EXECUTORS: dict[str, str] = {
    "local": "gnomon.executors.local:Local",
    "ray": "gnomon.executors.ray:Ray",
}
