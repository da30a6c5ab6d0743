"""Objectives on preferences: DPO and its variants, ORPO, SimPO, CPO, KTO, reward models."""
