"""The steps, each with its way back."""

__all__: list[str] = []
