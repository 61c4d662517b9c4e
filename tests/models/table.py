"""The table of tiny models: every family that the project is tested with."""

from tests.models.decoders import DECODERS
from tests.models.encoders import ENCODERS
from tests.models.family import Family
from tests.models.seq2seq import SEQ2SEQ
from tests.models.signals import SIGNALS

TABLE: dict[str, Family] = {
    family.name: family for family in (*DECODERS, *ENCODERS, *SEQ2SEQ, *SIGNALS)
}
