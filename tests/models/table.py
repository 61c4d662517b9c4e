"""The table of tiny models: every family that the project is tested with."""

from tests.models.decoders import DECODERS
from tests.models.encoders import ENCODERS
from tests.models.family import Family
from tests.models.seq2seq import SEQ2SEQ
from tests.models.signals import SIGNALS

TABLE: dict[str, Family] = {
    family.name: family for family in (*DECODERS, *ENCODERS, *SEQ2SEQ, *SIGNALS)
}

# Run on every change; the others run when docs/supported_models.md is made.
_CORE = """
    gpt2 gpt_neo gpt_neox gptj opt bloom falcon_rotary falcon_alibi falcon_new llama
    llama_dynamic_rope llama_yarn mistral mixtral qwen2 qwen3 qwen3_moe gemma
    gemma2 gemma3 phi phi3 phimoe stablelm olmo olmo2 starcoder2 gpt_bigcode cohere granite
    smollm3 mpt codegen xglm biogpt deepseek_v3 gpt_oss glm llama4 bamba mamba
    mamba2 jamba rwkv lfm2 openai_gpt ctrl xlnet bitnet
    bert roberta distilbert electra albert mobilebert convbert deberta deberta_v2 modernbert esm
    fnet big_bird nystromformer funnel
    t5 mt5 bart mbart pegasus m2m_100 blenderbot prophetnet whisper
    vit dinov2 dinov3_vit deit beit swin siglip clip convnext resnet wav2vec2 hubert wavlm
"""
CORE: tuple[str, ...] = tuple(_CORE.split())
