"""Look inside a model: record and change its inner values, and what the field computes from them."""

from glassbox.inspection.attention import (
    HeadScores,
    ReceptiveField,
    attention_patterns,
    copying_scores,
    head_scores,
    receptive_field,
)
from glassbox.inspection.attribution import (
    Attribution,
    direct_logit_attribution,
    integrated_gradients,
)
from glassbox.inspection.examples import (
    ExpertMap,
    NeuronExample,
    expert_routing,
    neuron_examples,
)
from glassbox.inspection.interventions import (
    ablate,
    ablation_effects,
    activation_patching,
    steering_vector,
)
from glassbox.inspection.lenses import (
    TunedLens,
    logit_lens,
    residual_stream,
    tuned_lens,
    unembed,
)
from glassbox.inspection.probes import LinearProbe, linear_probe, probe_layers
from glassbox.inspection.recording import Inspection, Pass, inspect
from glassbox.inspection.sites import names
from glassbox.inspection.summary import TokenSummary, token_summary
from glassbox.inspection.truth import (
    Divergence,
    MeanDivergence,
    StateProbe,
    divergence_from_truth,
    mean_divergence,
    probe_who_has,
    story_law,
)

__all__ = [
    "Attribution",
    "Divergence",
    "ExpertMap",
    "HeadScores",
    "Inspection",
    "LinearProbe",
    "MeanDivergence",
    "NeuronExample",
    "Pass",
    "ReceptiveField",
    "StateProbe",
    "TokenSummary",
    "TunedLens",
    "ablate",
    "ablation_effects",
    "activation_patching",
    "attention_patterns",
    "copying_scores",
    "direct_logit_attribution",
    "divergence_from_truth",
    "expert_routing",
    "head_scores",
    "inspect",
    "integrated_gradients",
    "linear_probe",
    "logit_lens",
    "mean_divergence",
    "names",
    "neuron_examples",
    "probe_layers",
    "probe_who_has",
    "receptive_field",
    "residual_stream",
    "steering_vector",
    "story_law",
    "token_summary",
    "tuned_lens",
    "unembed",
]
