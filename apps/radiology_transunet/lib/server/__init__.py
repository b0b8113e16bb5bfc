"""Everything that speaks HTTP or MONAI Label."""
