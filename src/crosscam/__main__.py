"""``python -m crosscam`` is the command ``crosscam``."""

from crosscam.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
