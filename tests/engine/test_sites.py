"""One vocabulary of sites: every function takes each spelling, and says both where there is no such site."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import interp_kit as ik
from interp_kit.engine.edits import everywhere
from interp_kit.engine.sites import ACTIVATIONS, WEIGHTS, as_hook, hook_name, layers_of, parse_site

BOTH = r"mlp_out.*'mlp_out\.0' or 'blocks\.0\.hook_mlp_out'"
MakeModel = Callable[..., Any]


@pytest.mark.parametrize("site", [*ACTIVATIONS, *WEIGHTS])
def test_every_spelling_is_one_site(site: str) -> None:
    template = (ACTIVATIONS.get(site) or WEIGHTS[site])[0]
    layer = 12 if "{layer}" in template else None
    assert parse_site(site, layer) == (site, layer)
    assert parse_site(template.format(layer=layer)) == (site, layer)
    if layer is not None:
        assert parse_site(site) == (site, None)
        assert parse_site(f"{site}.12") == parse_site(f"{site}.12", 12) == (site, 12)
        with pytest.raises(ValueError, match="is of layer 12, and layer is 3"):
            parse_site(f"{site}.12", 3)
    if site in ACTIVATIONS:
        assert as_hook(template.format(layer=layer)) == hook_name(site, layer) == template.format(layer=layer)


@pytest.mark.parametrize(
    "site", ["zz", "", "mlp_out.", "mlp_out.-1", "embed.0", "blocks.0.hook_zz", "blocks.0.hook_mlp_out\n", 3, None, []]
)
def test_what_is_not_a_site_lists_both_spellings(site: Any) -> None:
    with pytest.raises(ValueError, match=BOTH):
        parse_site(site)


def test_an_edit_is_checked_where_it_is_made() -> None:
    edit = ik.Edit("blocks.1.attn.hook_z", head=0)
    assert (edit.site, edit.layer) == ("z", 1)
    assert str(ik.Edit("W_in.0")) == "W_in layer=0 <- Zero"
    for site in ("zz", "resid"):
        with pytest.raises(ValueError, match=BOTH):
            ik.Edit(site)
    for site in ("resid_pre", "W_O"):
        with pytest.raises(ValueError, match=f"site '{site}' needs a layer, as in '{site}.0'"):
            ik.Edit(site)
    for site in ("embed", "W_E"):
        with pytest.raises(ValueError, match=f"site '{site}' has no layer"):
            ik.Edit(site, 0)
    for option in ("layer", "head", "neuron", "position"):
        with pytest.raises(ValueError, match=f"{option} is -1"):
            ik.Edit(**({"site": "z", "layer": 0} | {option: -1}))


def test_layers_of_a_site(tiny_model: MakeModel) -> None:
    model = tiny_model()
    assert layers_of(model, "z") == ("z", [0, 1])
    assert layers_of(model, "blocks.1.attn.hook_z") == layers_of(model, "z.1") == ("z", [1])
    assert layers_of(model, "embed") == ("embed", [None])
    with pytest.raises(ValueError, match=r"'z\.2': the model has layers 0 to 1"):
        layers_of(model, "z.2")
    with pytest.raises(ValueError, match="site 'W_O' is a weight; expected an activation"):
        layers_of(model, "W_O")
    with pytest.raises(ValueError, match="name 'z' of layer 1 twice"):
        everywhere(model, ["z", "z.1"], ik.Zero(), [None])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_functions_take_both_spellings(tiny_model: MakeModel, task: ik.BooleanTask) -> None:
    model = tiny_model()
    batch, pairs = task.batch(task.enumerate()), task.pairs("newB", "newD")
    probing: dict[str, Any] = {"positions": ["newA?"], "folds": 2, "repeats": 1, "control_repeats": 0}
    calls: dict[str, Callable[[str], np.ndarray]] = {
        "patch": lambda site: ik.patch(model, pairs, sites=site, positions=["newB?"]).recovered,
        "interchange": lambda site: ik.interchange(model, task, "newB", "newD", sites=site, by="all").accuracy,
        "sweep": lambda site: ik.sweep(model, batch, ik.Edit(site), ik.accuracy("newD")).values,
        "harvest": lambda site: ik.harvest(model, batch, site)[site].numpy(),
        "probe": lambda site: ik.probe(model, batch, "A", sites=site, **probing).score[:, 1:],
        "das": lambda site: (
            ik.das(model, task, "newB", "newD", site=site, position="D", seeds=(0,), steps=0, controls=False).layer
        ),
    }
    for name, call in calls.items():
        short, long = call("resid_post.1"), call("blocks.1.hook_resid_post")
        assert np.array_equal(short, long, equal_nan=True), name
    whole = ik.patch(model, pairs, sites="resid_post", positions=["newB?"])
    np.testing.assert_array_equal(whole.recovered[whole.layer == 1], calls["patch"]("resid_post.1"))
    assert len(calls["das"]("resid_post.1")) == 1
    assert torch.is_tensor(ik.harvest(model, batch, "z.0")["z.0"])


@pytest.mark.parametrize(
    ("name", "site"),
    [("hook_resid_pre", "resid_pre"), ("hook_z", "z"), ("attn.hook_z", "z"), ("mlp.hook_post", "mlp_post")],
)
def test_the_name_of_a_hook_without_its_layer_is_every_layer(tiny_model: MakeModel, name: str, site: str) -> None:
    assert layers_of(tiny_model(), name) == layers_of(tiny_model(), site)


@pytest.mark.parametrize("name", ["pattern", "hook_pattern", "blocks.1.attn.hook_pattern", "pattern.0", "attn_scores"])
def test_a_pattern_leads_to_what_there_is(name: str) -> None:
    with pytest.raises(ValueError, match=rf"'{name}' has a value per pair of positions, .*'z' .*attention_lags\(\)"):
        parse_site(name)
