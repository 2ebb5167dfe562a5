"""The paper's analyses as functions: numbers first, figures drawn from them second."""
