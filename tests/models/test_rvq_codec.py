from jaxcodec.models.configs import RVQCodecConfig


def test_no_feedback():
    """All streams work on one scale, so the encoder runs no decoder stage."""
    assert RVQCodecConfig().feedback_stages == 0
    esc_like = RVQCodecConfig(max_streams=9)
    assert esc_like.bitrate(9) == 13_500  # more streams than scales are fine
