"""The key gateway: who calls, is it the pod that was launched, may it have keys, what came out."""
