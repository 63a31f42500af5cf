"""Real architectures, written as their users write them; only the width is a parameter."""

from zoo import convnets, convnext, dense, language, mixers, operators, transformers, unet, vision, wavenet
from zoo.architecture import Architecture

ZOO: dict[str, Architecture] = {
    name: architecture
    for family in (convnets, convnext, unet, mixers, language, dense, operators, wavenet, transformers, vision)
    for name, architecture in family.ARCHITECTURES.items()
}
__all__ = ["ZOO", "Architecture"]
