"""tmp"""
Prompt = str | list[dict[str, str]]
