"""What an answer's text says beyond its number."""

from __future__ import annotations

import pytest

from adapters.kubernetes.client import classify
from bridge.errors import IsthmusError, Rejected, Unavailable


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('endpointslices.discovery.k8s.io is forbidden: User "u" cannot patch resource "endpointslices"', None),
        ('admission webhook "validation.gatekeeper.sh" denied the request: [team] no team label', Rejected),
        (
            "endpointslices \"x\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no",
            Rejected,
        ),
        ('services "pay" is forbidden: exceeded quota: few, requested: services=1, used: services=5', Unavailable),
        ('services "pay" is forbidden: status unknown for quota: few, resources: services', Unavailable),
        ('"pay" is forbidden: unable to create new content ... "reason":"NamespaceTerminating"', Unavailable),
    ],
)
def test_a_403_is_a_matter_of_rights_unless_its_text_says_otherwise(text: str, kind: type[IsthmusError] | None) -> None:
    assert classify(403, text) is kind
