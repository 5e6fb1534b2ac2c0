"""What a container that cannot be read, or be written, raises."""


class ContainerError(ValueError):
    """A `.jxc` container is damaged, or was asked for what it cannot hold.

    It is the only exception that the bytes of a container can cause: whatever a file
    holds, reading it ends in codes or in this.
    """
