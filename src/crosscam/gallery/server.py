"""Points of a gallery on a Qdrant server or cluster."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from crosscam.errors import GalleryError, InputError, MissingExtraError
from crosscam.gallery.points import (
    EVERYTHING,
    GRAPH,
    KEYWORDS,
    NUMBERS,
    SET_NAME,
    Point,
    Points,
    Quantization,
    Scored,
    Vectors,
    filter_of,
    in_pages,
    meant,
    point_of,
    vector_of,
)
from crosscam.gallery.sighting import Where

__all__ = ["ServerHome"]


class ServerHome:
    """Points on a Qdrant server or cluster.

    ``url`` is ``http://host:6333`` or ``http://host:6333/NAME``.  The manifests of all galleries
    of a server are points without a vector in the collection ``crosscam``.
    """

    _ABOUT = "crosscam"

    def __init__(self, url: str, *, api_key: str | None = None, client: Any = None) -> None:
        try:
            import qdrant_client
        except ImportError as error:
            raise MissingExtraError(
                "a gallery on a server needs qdrant-client: pip install 'crosscam[gallery]'."
            ) from error
        parts = urlsplit(url)
        self.name = parts.path.strip("/") or "gallery"
        if not self.name.replace("-", "").replace("_", "").isalnum() or not self.name.isascii():
            raise InputError(
                f"{url} names the gallery {self.name!r}; letters, digits, - and _ are possible."
            )
        self.url = url
        self._models: Any = qdrant_client.models
        address = f"{parts.scheme}://{parts.netloc}"
        self._local = client is not None
        try:
            self.client = client or qdrant_client.QdrantClient(
                url=address,
                port=parts.port or 6333,
                api_key=api_key,
                timeout=60,
                check_compatibility=False,
            )
        except ValueError as error:
            raise InputError(f"{url} is not the address of a server ({error}).") from error

    def read(self) -> dict[str, Any] | None:
        with _server_errors(self.url):
            if not self.client.collection_exists(self._ABOUT):
                return None
            found = self.client.retrieve(self._ABOUT, [self._id()], with_payload=True)
        return dict(found[0].payload or {}) if found else None

    def write(self, manifest: Mapping[str, Any]) -> None:
        with _server_errors(self.url):
            if not self.client.collection_exists(self._ABOUT):
                self.client.create_collection(self._ABOUT, vectors_config={})
            point = self._models.PointStruct(id=self._id(), vector={}, payload=dict(manifest))
            self.client.upsert(self._ABOUT, [point], wait=True)

    def unwrite(self) -> None:
        with _server_errors(self.url):
            self.client.delete(self._ABOUT, [self._id()], wait=True)

    def open(self, name: str, dim: int, quantization: Quantization, *, create: bool) -> Points:
        models = self._models
        collection = f"{self._ABOUT}-{self.name}-{name}"
        with _server_errors(self.url):
            if not self.client.collection_exists(collection):
                if not create:
                    raise GalleryError(
                        f"{self.url} has lost its points: there is no collection {collection}. "
                        "Restore it from a snapshot."
                    )
                self.client.create_collection(
                    collection,
                    vectors_config=models.VectorParams(
                        size=dim, distance=models.Distance.DOT, on_disk=quantization == "int8"
                    ),
                    hnsw_config=models.HnswConfigDiff(**GRAPH),
                    quantization_config=models.ScalarQuantization(
                        scalar=models.ScalarQuantizationConfig(
                            type=models.ScalarType.INT8, quantile=0.99, always_ram=True
                        )
                    )
                    if quantization == "int8"
                    else None,
                )
                if not self._local:
                    for keys, kind in ((KEYWORDS, "KEYWORD"), (NUMBERS, "FLOAT")):
                        for key in keys:
                            self.client.create_payload_index(
                                collection, key, getattr(models.PayloadSchemaType, kind), wait=True
                            )
        return _ServerPoints(self.client, models, collection, self.url, self._local)

    def names(self) -> list[str]:
        prefix = f"{self._ABOUT}-{self.name}-"
        with _server_errors(self.url):
            every = [c.name for c in self.client.get_collections().collections]
        own = (c.removeprefix(prefix) for c in every if c.startswith(prefix))
        return sorted(name for name in own if SET_NAME.fullmatch(name))

    def drop(self, name: str) -> None:
        with _server_errors(self.url):
            self.client.delete_collection(f"{self._ABOUT}-{self.name}-{name}")

    def close(self) -> None:
        if not self._local:
            self.client.close()

    def _id(self) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"crosscam:{self.name}"))


class _ServerPoints:
    erases = False

    def __init__(self, client: Any, models: Any, name: str, url: str, local: bool) -> None:
        self._client, self._models, self._name, self._url = client, models, name, url
        self._local = local

    def add(
        self, ids: Sequence[str], vectors: Vectors, payloads: Sequence[Mapping[str, Any]]
    ) -> None:
        points = [
            self._models.PointStruct(id=id, vector=row.tolist(), payload=dict(payload))
            for id, row, payload in zip(ids, vectors, payloads, strict=True)
        ]
        with _server_errors(self._url):
            for start in range(0, len(points), 500):  # some 5 MB of JSON a request
                self._client.upsert(self._name, points[start : start + 500], wait=True)

    def nearest(
        self,
        queries: Vectors,
        limit: int,
        where: Where,
        *,
        exact: bool,
        effort: int,
        vectors: bool,
    ) -> list[list[Scored]]:
        models = self._models
        # The client's local mode is always exact, and warns of parameters.
        params = None if self._local else models.SearchParams(
            exact=exact,
            hnsw_ef=None if exact else effort,
            quantization=None if exact else models.QuantizationSearchParams(
                rescore=True, oversampling=2.0
            ),
        )  # fmt: skip
        requests = [
            models.QueryRequest(
                query=q.tolist(),
                limit=limit,
                filter=filter_of(models, where),
                params=params,
                with_payload=True,
                with_vector=vectors,
            )
            for q in queries
        ]
        with _server_errors(self._url):
            found = self._client.query_batch_points(self._name, requests)
        return [
            [
                Scored(str(p.id), float(p.score), p.payload or {}, vector_of(p.vector))
                for p in one.points
            ]
            for one in found
        ]

    def get(
        self, ids: Sequence[str], *, payload: bool = True, vectors: bool = False
    ) -> list[Point]:
        with _server_errors(self._url):
            records = self._client.retrieve(
                self._name, list(ids), with_payload=payload, with_vectors=vectors
            )
        return [point_of(r) for r in records]

    def scan(
        self,
        where: Where,
        *,
        vectors: bool = False,
        limit: int | None = None,
        fields: Sequence[str] | None = None,
        start: str | None = None,
    ) -> Iterator[Point]:
        condition = filter_of(self._models, where)

        def page(offset: Any, size: int) -> Any:
            with _server_errors(self._url):
                return self._client.scroll(
                    self._name,
                    scroll_filter=condition,
                    limit=size,
                    offset=offset,
                    with_payload=True if fields is None else list(fields),
                    with_vectors=vectors,
                )

        return in_pages(page, limit, start)

    def count(self, where: Where) -> int:
        with _server_errors(self._url):
            condition = filter_of(self._models, where)
            return int(self._client.count(self._name, count_filter=condition, exact=True).count)

    def values(self, key: str, where: Where) -> dict[str, int]:
        with _server_errors(self._url):
            hits = self._client.facet(
                self._name,
                key,
                facet_filter=filter_of(self._models, where),
                limit=EVERYTHING,
                exact=True,
            ).hits
        return {str(h.value): int(h.count) for h in hits if h.count}

    def extreme(self, key: str, *, last: bool) -> Point | None:
        models = self._models
        direction = models.Direction.DESC if last else models.Direction.ASC
        with _server_errors(self._url):
            records, _ = self._client.scroll(
                self._name, limit=1, order_by=models.OrderBy(key=key, direction=direction)
            )
        return point_of(records[0]) if records else None

    def update(
        self, where: Where, payload: Mapping[str, Any], *, clear: Sequence[str] = ()
    ) -> None:
        condition = filter_of(self._models, meant(where))
        with _server_errors(self._url):
            if payload:
                self._client.set_payload(self._name, dict(payload), points=condition, wait=True)
            if clear:
                self._client.delete_payload(self._name, list(clear), points=condition, wait=True)

    def replace_payloads(self, payloads: Mapping[str, Mapping[str, Any]]) -> None:
        with _server_errors(self._url):
            for id, payload in payloads.items():
                self._client.overwrite_payload(self._name, dict(payload), points=[id], wait=True)

    def delete(self, where: Where) -> None:
        condition = filter_of(self._models, meant(where))
        with _server_errors(self._url):
            self._client.delete(
                self._name,
                points_selector=self._models.FilterSelector(filter=condition),
                wait=True,
            )

    def flush(self) -> None:
        pass  # the server's business: it answered after writing its log

    def optimize(self) -> None:
        pass  # the server's optimizers run by themselves

    def indexed(self) -> int:
        with _server_errors(self._url):
            return int(self._client.get_collection(self._name).indexed_vectors_count or 0)

    def close(self) -> None:
        pass


@contextmanager
def _server_errors(url: str) -> Iterator[None]:
    from qdrant_client.http.exceptions import (
        ApiException,
        ResponseHandlingException,
        UnexpectedResponse,
    )

    try:
        yield
    except ResponseHandlingException as error:
        raise GalleryError(
            f"no Qdrant server answers at {url} ({error.source}). Start it, or correct the address."
        ) from error
    except UnexpectedResponse as error:
        denied = error.status_code in (401, 403)
        raise GalleryError(
            f"the Qdrant server at {url} answered {error.status_code} {error.reason_phrase}: "
            f"{error.content.decode('utf-8', 'replace')[:300]}."
            + (" Set CROSSCAM_QDRANT_API_KEY to its key." if denied else "")
        ) from error
    except ApiException as error:
        raise GalleryError(f"the Qdrant server at {url} failed: {error}.") from error
