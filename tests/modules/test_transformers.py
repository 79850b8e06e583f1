"""Layer groups of the models of transformers, small and without memory for their weights."""

import pytest
import torch

from lightning_finetune.engine.freezing import outermost
from lightning_finetune.engine.layer_groups import layer_groups, num_head_groups
from tests.modules.published import NEEDS
from tests.modules.sizes import SIZES, TEXT

tf = pytest.importorskip("transformers", reason=NEEDS)

VISION = {**SIZES, "image_size": 32, "patch_size": 8}
STAGES = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 2, 1]}
GPT2 = {"n_embd": 16, "n_layer": 3, "n_head": 2, "vocab_size": 100, "n_positions": 32}
T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 3, "num_heads": 2, "vocab_size": 100}
PAIR = {
    **{f"{half}_{what}": value for half in ("encoder", "decoder") for what, value in [("layers", 3), ("ffn_dim", 32)]},
    **{"d_model": 16, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "vocab_size": 100},
}
SPEECH = {
    **SIZES,
    **{"conv_dim": [8] * 3, "conv_kernel": [10, 3, 3], "conv_stride": [5, 2, 2], "num_feat_extract_layers": 3},
    **{"classifier_proj_size": 8, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2},
}
SEGFORMER = {**STAGES, "num_attention_heads": [1, 1, 2, 2], "decoder_hidden_size": 16}
SWIN = {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [1, 1, 2, 1], "num_heads": [1, 1, 2, 2]}
CLIP = {"vision_config": VISION, "text_config": TEXT, "projection_dim": 8}
MODELS = {  # class: what makes it small, its groups, what its head is
    "BertForSequenceClassification": (TEXT, 5, {"bert.pooler", "classifier"}),
    "BertForMaskedLM": (TEXT, 5, {"cls.predictions.transform", "cls.predictions.bias"}),
    "RobertaForSequenceClassification": (TEXT, 5, {"classifier"}),
    "XLMRobertaForQuestionAnswering": (TEXT, 5, {"qa_outputs"}),
    "DistilBertForSequenceClassification": (
        {"dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 32, "vocab_size": 100},
        5,
        {"pre_classifier", "classifier"},
    ),
    "DebertaForSequenceClassification": ({**TEXT, "relative_attention": True}, 5, {"pooler", "classifier"}),
    "DebertaV2ForSequenceClassification": ({**TEXT, "relative_attention": True}, 5, {"pooler", "classifier"}),
    "ModernBertForSequenceClassification": ({**TEXT, "pad_token_id": 0}, 5, {"head", "classifier"}),
    "ElectraForTokenClassification": ({**TEXT, "embedding_size": 8}, 5, {"classifier"}),
    "ViTForImageClassification": (VISION, 5, {"classifier"}),
    "Dinov2ForImageClassification": (VISION, 5, {"classifier"}),
    "BeitForImageClassification": (VISION, 5, {"classifier"}),
    "SwinForImageClassification": ({**SWIN, "window_size": 2}, 6, {"classifier"}),
    "ConvNextForImageClassification": (STAGES, 6, {"classifier"}),
    "SegformerForSemanticSegmentation": (SEGFORMER, 5, {"decode_head"}),
    "SegformerForImageClassification": (SEGFORMER, 5, {"classifier"}),
    "CLIPVisionModelWithProjection": (VISION, 5, {"visual_projection"}),
    "CLIPForImageClassification": (CLIP, 5, {"classifier"}),
    "CLIPModel": (CLIP, 8, {"visual_projection", "text_projection", "logit_scale"}),
    "Wav2Vec2ForSequenceClassification": (SPEECH, 9, {"projector", "classifier"}),
    "Wav2Vec2ForCTC": (SPEECH, 9, {"lm_head"}),
    "GPT2LMHeadModel": (GPT2, 4, {"transformer.h.2", "transformer.ln_f"}),
    "GPT2ForSequenceClassification": (GPT2, 5, {"score"}),
    "LlamaForCausalLM": (TEXT, 5, {"lm_head"}),
    "LlamaForSequenceClassification": (TEXT, 5, {"score"}),
    "T5ForConditionalGeneration": (T5, 7, {"decoder.block.2", "decoder.final_layer_norm"}),
    "T5ForSequenceClassification": (T5, 8, {"classification_head"}),
    "BartForConditionalGeneration": (PAIR, 7, {"model.decoder.layers.2"}),
    "BartForSequenceClassification": (PAIR, 8, {"classification_head"}),
    "DetrForObjectDetection": (
        {**PAIR, "use_pretrained_backbone": False},
        14,
        {"class_labels_classifier", "bbox_predictor"},
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_embeddings_blocks_and_head_are_groups(name):
    options, count, head = MODELS[name]
    kind = getattr(tf, name)
    with torch.device("meta"):
        model = kind(kind.config_class(**options))
    groups = layer_groups(model)
    new = num_head_groups(groups)
    assert len(groups) == count
    assert set(outermost(model, [param for group in groups[-new:] for param in group.params])) == head
    assert sum(len(group.params) for group in groups) == len([p for p in model.parameters() if p.requires_grad])
    last = groups[-new - 1] if head.isdisjoint({"transformer.ln_f", "decoder.final_layer_norm"}) else groups[-1]
    norms = [n for n, m in model.named_modules() if "norm" in n.lower() and n.count(".") <= 1]
    final = [n for n in norms if n.endswith(("layernorm", "final_norm", "ln_f", "model.norm", "final_layer_norm"))]
    held = {id(param) for param in last.params}
    for norm in [n for n in final if "embeddings" not in n and "text_model" not in n and "encoder" not in n]:
        assert {id(param) for param in model.get_submodule(norm).parameters()} <= held, norm


@pytest.mark.parametrize("name", ["CLIPVisionModel", "CLIPTextModel"])
def test_a_tower_without_a_head_is_its_blocks(name):
    kind = getattr(tf, name)
    with torch.device("meta"):
        model = kind(kind.config_class(**(VISION if "Vision" in name else TEXT)))
    assert [group.name.rpartition(".")[2] for group in layer_groups(model)] == ["embeddings", "0", "1", "2"]
