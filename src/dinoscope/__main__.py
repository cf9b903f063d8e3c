"""`python -m dinoscope`, for torchrun and for machines where scripts are not on the path."""

import sys

from dinoscope.cli import main

sys.exit(main())
