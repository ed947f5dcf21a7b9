"""Which parameters of a model train, by name. `params` of the state is what does, `frozen["base"]` what does not.

A tuning is built as `Kind(config, params)` from the model's parameters or their shapes, and has

    trains(path)              whether a parameter of the model trains as it is
    split(params, key)        (what trains, with parameters of its own; what does not)
    begin(model, trained, base, key)   what trains, as it begins beside the model's own first weights
    merge(trained, base, train)   the tree that the model is called with, whose gradient goes to `trained`
    folded(trained, base)     plain parameters of the model, which compute the same
    first(trained)            of what trains, the model's own parameters
    optimizer(tx, trained)    the optimizer, which may learn from the step what trains by now
    describe()                for the start line; "" where all trains

and a static `model(config, model)`: the module that is trained in place of `model`.
"""

TUNINGS = {
    "full": "jaxlm.train.tuning.full:Full",
    "partial": "jaxlm.train.tuning.partial:Partial",
    "lora": "jaxlm.train.tuning.lora:LoRA",
    "prompt": "jaxlm.train.tuning.prompt:Prompt",
}
