"""Pages of host pools: their bytes in the flat order, wherever they lie."""

from __future__ import annotations

import pytest
import torch

from tests.doors.sglang.conftest import LAYOUTS, PAGE, Drive, Pieces, chunk, pool_of

SMALL = [(layout, latent) for layout in LAYOUTS for latent in (False, True) if (layout, latent) != ("page_head", True)]


@pytest.mark.parametrize(("layout", "latent"), SMALL)
def test_where_pages_lie_is_where_their_flat_copies_come_from(layout: str, latent: bool) -> None:
    drive = Drive(None, pool_of(layout, latent=latent))
    # Six small buffers of a page are worth no addresses; of a latent cache there are three.
    assert drive.pages.straight is not (layout == "layer_first" and not latent)
    for slot in (0, 5, 15):
        drive.fill(slot, chunk(slot, drive.size))
    assert drive.untouched(0, 5, 15)
    for slot in (0, 5, 15):
        assert drive.slot(slot) == chunk(slot, drive.size)
        if drive.pages.straight:
            (span,) = drive.pages.spans(drive.indices([slot]))
            assert b"".join(span) == chunk(slot, drive.size)


def test_large_buffers_are_used_however_many_unless_they_are_in_another_order() -> None:
    large = pool_of("layer_first", layers=8, page_size=4096, pages=2, latent=True)
    assert Drive(None, large).pages.straight
    assert not Drive(None, pool_of("layer_first", layers=8, page_size=4096, pages=2)).pages.straight


def test_a_pool_without_addresses_or_whose_pages_move_is_copied() -> None:
    states = Drive(None, Pieces())
    assert not states.pages.straight
    assert states.size == 22
    moving = pool_of("page_first")
    moving.shared_allocation_domain = object()
    assert not Drive(None, moving).pages.straight


def test_an_index_outside_the_pool_reaches_no_memory() -> None:
    for layout in LAYOUTS:
        drive = Drive(None, pool_of(layout))
        for slot in (16, 1 << 40):
            if drive.pages.straight:
                with pytest.raises((ValueError, IndexError), match=r"page of|bounds"):
                    drive.pages.spans(drive.indices([slot]))


def test_addresses_elsewhere_are_not_used() -> None:
    pool = pool_of("page_first")
    other = pool_of("page_first")
    pool.get_page_buffer_meta = other.get_page_buffer_meta
    assert not Drive(None, pool).pages.straight
    cut = pool_of("page_first")
    whole = cut.get_page_buffer_meta
    cut.get_page_buffer_meta = lambda indices: tuple(part[::-1] for part in whole(indices))
    assert not Drive(None, cut).pages.straight, "in another order"


def test_indices_of_another_number_of_pages_do_not_fit() -> None:
    pages = Drive(None, pool_of()).pages
    assert pages.fits(torch.arange(2 * PAGE), 2)
    assert not pages.fits(torch.arange(2 * PAGE - 1), 2)
    assert not pages.fits(None, 0)
