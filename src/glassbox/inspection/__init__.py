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

__all__ = [
    "Attribution",
    "ExpertMap",
    "HeadScores",
    "Inspection",
    "LinearProbe",
    "NeuronExample",
    "Pass",
    "ReceptiveField",
    "TunedLens",
    "ablate",
    "ablation_effects",
    "activation_patching",
    "attention_patterns",
    "copying_scores",
    "direct_logit_attribution",
    "expert_routing",
    "head_scores",
    "inspect",
    "integrated_gradients",
    "linear_probe",
    "logit_lens",
    "names",
    "neuron_examples",
    "probe_layers",
    "receptive_field",
    "residual_stream",
    "steering_vector",
    "tuned_lens",
    "unembed",
]
