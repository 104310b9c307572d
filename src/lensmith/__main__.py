"""`python -m lensmith`, which is what torchrun starts in each of its processes."""

import sys

from lensmith.cli import main

sys.exit(main())
