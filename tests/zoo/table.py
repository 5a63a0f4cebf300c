"""All architectures of the zoo."""

from zoo import dense, mobile, pixel, published, residual, signal

ZOO = (
    *residual.ARCHITECTURES,
    *dense.ARCHITECTURES,
    *mobile.ARCHITECTURES,
    *pixel.ARCHITECTURES,
    *signal.ARCHITECTURES,
    *published.ARCHITECTURES,
)
