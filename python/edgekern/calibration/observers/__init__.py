"""Observers: what is kept of the activations that pass through a tensor.

One file a kind, behind the protocol :class:`~edgekern.calibration.observers.base.Observer`: update, merge, state_dict,
load_state_dict. A new kind is its file and a line of :data:`~edgekern.calibration.observers.kinds.KINDS`;
``Calibrator(model, observers=[...])`` runs it, and what it kept stands in ``Calibrator.observers``.
"""
