"""An optimizer that hides nothing, for comparisons of one device with several."""

import optax

from jaxcodec.optim.averaging import average_parameters
from jaxcodec.optim.flat import flat
from jaxcodec.optim.guard import skip_non_finite


def descent(rate):
    """Plain gradient descent for `Programs`: Adam would hide a gradient too big."""

    def make(experiment, whole):
        tx = optax.chain(optax.sgd(rate), average_parameters(0.9))
        return flat(lambda layout: skip_non_finite(tx), whole=whole)

    return make
