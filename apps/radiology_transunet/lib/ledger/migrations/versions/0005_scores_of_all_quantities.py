"""Every score that a model gave a label, and what its quality may be judged by."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

COLUMNS = (
    "bald",
    "margin",
    "disagreement",
    "volume_ml",
    "largest_probability",
    "mean_probability",
    "boundary_entropy",
    "components",
    "edge_share",
    "samples_dice",
)


def upgrade() -> None:
    """Add the columns; drafts from before have the entropy's score alone."""
    for column in COLUMNS:
        op.add_column("scores", sa.Column(column, sa.Float(53)))


def downgrade() -> None:
    """Take them away."""
    for column in COLUMNS:
        op.drop_column("scores", column)
