"""Methods that see the whole function at each step: Newton, BFGS, L-BFGS, line searches, trust regions."""
