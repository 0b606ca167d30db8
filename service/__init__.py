"""The online half: the OpenAI API, the admin API, the fusion pipeline and the backends. Never imports `offline`."""
