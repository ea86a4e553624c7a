"""How tests find workers in place of lost ones."""

from skdistmlp.cluster.recovery.replacement import Spares

all_of = Spares(lambda spare: spare)
"""Any worker will do."""

none_of = Spares(lambda _: ())
"""Other fits hold all of them."""
