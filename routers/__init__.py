"""Predictors of arm quality and the policy that decides. A router predicts; a policy decides."""
