"""The command line: one file a command, thin."""


def main() -> None:
    """Run the command line."""
