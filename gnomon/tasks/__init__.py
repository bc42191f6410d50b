TASKS: dict[str, str] = {}
