"""What can be sealed, one module a kind; `opening` finds out which kind something is."""

from securetrain.sealed.sources.arrays import ImageSource as ImageSource
