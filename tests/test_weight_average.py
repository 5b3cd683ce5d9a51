"""The average of weights over the steps."""

import torch

from models.build import build_model
from training.weight_average import WeightAverage


def test_the_average_forgets_as_it_says():
    model = build_model({"joints": 16, "hid_dim": 4, "num_layers": 1})
    average = WeightAverage({"state_dict": model}, decay=0.9)
    names = [name for name, value in model.state_dict().items() if value.is_floating_point()]
    assert any("running_var" in name for name in names)  # statistics are averaged alike
    expected = {name: model.state_dict()[name].clone() for name in names}
    for step in range(1, 200):
        with torch.no_grad():
            for name in names:
                model.state_dict()[name].normal_()
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        for name in names:
            expected[name] = decay * expected[name] + (1 - decay) * model.state_dict()[name]
    found = average.networks["state_dict"].state_dict()
    assert all(torch.allclose(found[name], expected[name], atol=1e-5) for name in names)
