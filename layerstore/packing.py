"""A blob that is compressed and written beside what goes on: the second half of a commit.

    maker: pieces of a tar, hashed (diff_id) -----> queue, 64 pieces -----> thread: compress, hash,
           goes on when the last has been handed over                       write, force to the disk

A small blob has no thread. The thread knows its compressor, its file and nothing else of the store;
what it has made is taken over by `finish`, in the thread of whoever asks. While one is at work
nothing may be forked by this process (docs/decisions/0010).
"""

from collections.abc import Callable

from layerstore.blobs import BlobWriter
from layerstore.compression import Compression, Compressor, compressor, media_type
from layerstore.descriptor import Descriptor

_SMALL_BYTES = 2 << 20
_PIECES_MAX = 64  # of about a megabyte
_END = b""


class Packing:
    """Takes the pieces of a tar, gives the blob. `finish` or `abandon` ends it."""

    def __init__(self, kind: Compression, writer: BlobWriter) -> None:
        self._kind = kind
        self._writer = writer
        self._compressor = compressor(kind, writer.write)
        self._thread: _Thread | None = None
        self._taken_bytes = 0
        self._descriptor: Descriptor | None = None
        self._error: Exception | None = None

    def write(self, data: bytes) -> None:
        """Take the next piece of the tar. It may wait for the compressor, if that is far behind.

        Raises:
            OSError: an earlier piece could not be written.
        """
        self._taken_bytes += len(data)
        if self._thread is None and self._taken_bytes <= _SMALL_BYTES:
            self._compressor.write(data)
            return
        if self._thread is None:
            self._thread = _Thread(self._writer, self._compressor)
        self._thread.take(data)

    def close(self) -> None:
        """There are no more pieces."""
        if self._thread is None:
            self._compressor.close()
        else:
            self._thread.take(_END)

    @property
    def is_done(self) -> bool:
        """Whether `finish` will not wait."""
        return self._thread is None or self._thread.is_done

    def finish(self) -> Descriptor:
        """Wait for the blob, and hand it over to its store.

        Raises:
            OSError: it could not be written.
        """
        if self._thread is not None:
            self._error = self._thread.end()
            self._thread = None  # not before: an interrupt leaves it to `abandon`
        if self._error is not None:
            raise self._error
        if self._descriptor is None:
            del self._compressor  # and the memory that it takes
            info = self._writer.commit()
            self._descriptor = Descriptor(
                media_type=media_type(self._kind), digest=info.digest, size_bytes=info.size_bytes
            )
        return self._descriptor

    def abandon(self) -> None:
        """Nobody wants it any more. Nothing happens after `finish`."""
        if self._thread is not None:
            self._thread.stop()
            self._thread = None
        self._writer.close()


class _Thread:
    """Compresses and writes what it is given."""

    def __init__(self, writer: BlobWriter, compressor: Compressor) -> None:
        import queue  # only a large layer pays for these
        import threading

        self._writer = writer
        self._compressor = compressor
        self._pieces: queue.Queue[bytes] = queue.Queue(_PIECES_MAX)
        self._error: Exception | None = None
        self._is_unwanted = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    @property
    def is_done(self) -> bool:
        return not self._thread.is_alive()

    def take(self, piece: bytes) -> None:
        if self._error is not None:
            raise self._error
        self._pieces.put(piece)

    def end(self) -> Exception | None:
        self._thread.join()
        return self._error

    def stop(self) -> None:
        self._is_unwanted = True
        self._pieces.put(_END)
        self._thread.join()

    def _work(self) -> None:
        while piece := self._pieces.get():  # to the end, or the maker would wait for ever
            self._try(self._compressor.write, piece)
        self._try(self._compressor.close)
        self._try(self._writer.sync)

    def _try(self, work: Callable[..., object], *pieces: bytes) -> None:
        if self._error is not None or self._is_unwanted:
            return
        try:
            work(*pieces)
        except Exception as error:  # noqa: BLE001 - it is the caller's, in another thread
            self._error = error
