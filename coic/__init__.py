"""Image deraining on mixed data, with kernels that follow the image (CoIC)."""

__all__: list[str] = []
