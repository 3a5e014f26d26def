"""Writes every generated file from the declarations: `python -m daemoneye.codegen [--check] [ROOT]`."""
