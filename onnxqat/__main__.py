"""`python -m onnxqat`."""

import sys

from onnxqat.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
