"""llama-server's routes, on the server that misbehaves."""

from __future__ import annotations

from tests.fakes.server import Handler, Server
from tests.fakes.shapes import Chat, Completion, Messages, Responses, prompt_tokens
from tests.fakes.wire import Connection, RefusalError, Request


class LlamaServer(Server):
    """Answers as llama-server does."""

    def routes(self) -> dict[tuple[str, str], Handler]:
        """Handlers by method and path."""
        models, health = self.models, self.health
        return {
            **super().routes(),
            ("GET", "/health"): health,
            ("GET", "/v1/health"): health,
            ("GET", "/models"): models,
            ("GET", "/v1/models"): models,
            ("GET", "/props"): self.props,
            ("GET", "/slots"): self.slot_list,
            ("GET", "/metrics"): self.metrics,
            ("POST", "/v1/chat/completions"): self.chat,
            ("POST", "/v1/completions"): self.completion,
            ("POST", "/v1/messages"): self.messages,
            ("POST", "/v1/messages/count_tokens"): self.count_tokens,
            ("POST", "/v1/responses"): self.responses,
            ("POST", "/v1/embeddings"): self.embeddings,
            ("POST", "/v1/rerank"): self.rerank,
            ("POST", "/tokenize"): self.tokenize,
        }

    def health(self, connection: Connection, request: Request) -> None:
        """Healthy, whatever the truth is."""
        connection.answer(200, {"status": "ok"})

    def models(self, connection: Connection, request: Request) -> None:
        """The one model."""
        entry = {"id": self.name, "object": "model", "owned_by": "llamacpp"}
        connection.answer(200, {"object": "list", "data": [entry]})

    def props(self, connection: Connection, request: Request) -> None:
        """What llama-server tells of itself."""
        settings = {"n_ctx": self.options.ctx_size}
        total = self.options.parallel
        body = {"default_generation_settings": settings, "total_slots": total}
        connection.answer(200, {**body, "model_path": self.options.model, "is_sleeping": False})

    def slot_list(self, connection: Connection, request: Request) -> None:
        """Busy slots first."""
        busy = self.counts["in_flight"]
        size = self.options.ctx_size
        slots = [
            {"id": i, "n_ctx": size, "is_processing": i < busy}
            for i in range(self.options.parallel)
        ]
        connection.answer(200, slots)

    def metrics(self, connection: Connection, request: Request) -> None:
        """A few of llama-server's numbers; 501 without --metrics."""
        if not self.options.metrics:
            raise RefusalError(501, "This server does not support metrics endpoint.")
        text = f"llamacpp:requests_processing {self.counts['in_flight']}\n"
        connection.answer(200, text.encode(), "text/plain; version=0.0.4")

    def chat(self, connection: Connection, request: Request) -> None:
        """OpenAI's chat completions."""
        self.generate(connection, request, Chat)

    def completion(self, connection: Connection, request: Request) -> None:
        """OpenAI's completions."""
        self.generate(connection, request, Completion)

    def messages(self, connection: Connection, request: Request) -> None:
        """Anthropic's messages."""
        self.generate(connection, request, Messages)

    def responses(self, connection: Connection, request: Request) -> None:
        """OpenAI's responses."""
        self.generate(connection, request, Responses)

    def count_tokens(self, connection: Connection, request: Request) -> None:
        """A token is a word."""
        connection.answer(200, {"input_tokens": prompt_tokens(request.json())})

    def tokenize(self, connection: Connection, request: Request) -> None:
        """A token is a word here too."""
        words = str(request.json().get("content", "")).split()
        connection.answer(200, {"tokens": list(range(len(words)))})

    def embeddings(self, connection: Connection, request: Request) -> None:
        """Vectors that differ when the texts do; 501 without --embeddings."""
        body = request.json()
        if not self.options.embeddings:
            text = "This server does not support embeddings. Start it with `--embeddings`"
            raise RefusalError(501, text, "not_supported_error")
        self.check_model(body)
        given = body.get("input")
        texts = given if isinstance(given, list) else [given]
        data = [
            {"object": "embedding", "index": index, "embedding": [len(str(text)) / 100.0, 1.0]}
            for index, text in enumerate(texts)
        ]
        usage = {"prompt_tokens": len(data), "total_tokens": len(data)}
        answer = {"object": "list", "data": data, "model": self.name, "usage": usage}
        connection.answer(200, answer)

    def rerank(self, connection: Connection, request: Request) -> None:
        """Scores by length; 501 without --reranking."""
        body = request.json()
        if not self.options.reranking:
            text = "This server does not support reranking. Start it with `--reranking`"
            raise RefusalError(501, text, "not_supported_error")
        self.check_model(body)
        documents = body.get("documents")
        if not isinstance(documents, list):
            raise RefusalError(400, '"documents" must be a list')
        results = [
            {"index": index, "relevance_score": -float(len(str(text)))}
            for index, text in enumerate(documents)
        ]
        connection.answer(200, {"object": "list", "model": self.name, "results": results})
