"""The one error of the layer-7 parsers."""


class Malformed(ValueError):  # noqa: N818 - it names what the bytes are
    """Bytes that are not what the protocol says. The text tells what is wrong and where."""
