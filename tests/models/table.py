"""The table of tiny models: every family that the project is tested with."""

from tests.models.decoders import DECODERS
from tests.models.encoders import ENCODERS
from tests.models.family import Family
from tests.models.seq2seq import SEQ2SEQ
from tests.models.signals import SIGNALS

TABLE: dict[str, Family] = {
    family.name: family for family in (*DECODERS, *ENCODERS, *SEQ2SEQ, *SIGNALS)
}

# One of each kind, run on every change; all run when docs/supported_models.md is made.
_CORE = """
    gpt2 gpt_neo gpt_neox gptj opt bloom falcon_new llama mixtral qwen3 gemma2 gemma3 phi phi3
    olmo2 gpt_bigcode cohere deepseek_v3 gpt_oss llama4 bamba mamba lfm2 openai_gpt xlnet bitnet
    jetmoe
    bert albert mobilebert convbert deberta_v2 modernbert fnet big_bird funnel
    t5 bart prophetnet whisper
    vit dinov3_vit swin clip convnext resnet wav2vec2
"""
CORE: tuple[str, ...] = tuple(_CORE.split())
