"""Names of people, cities, months and weekdays. A file of functions may import this module."""

from __future__ import annotations

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip

_CITIES = """
Amsterdam, Ankara, Athens, Auckland, Austin, Bangkok, Barcelona, Beirut, Berlin, Bogota, Boston, Brussels,
Bucharest, Budapest, Cairo, Chicago, Copenhagen, Dakar, Dallas, Delhi, Denver, Dubai, Dublin, Edinburgh, Frankfurt,
Geneva, Hamburg, Hanoi, Havana, Helsinki, Houston, Istanbul, Jakarta, Johannesburg, Karachi, Kyoto, Lagos, Lima,
Lisbon, London, Lyon, Madrid, Manila, Marseille, Melbourne, Miami, Milan, Montreal, Moscow, Mumbai, Munich, Nairobi,
Naples, Osaka, Oslo, Ottawa, Paris, Philadelphia, Phoenix, Portland, Prague, Quito, Riga, Rome, Rotterdam, Santiago,
Seattle, Seoul, Seville, Shanghai, Singapore, Sofia, Stockholm, Sydney, Tallinn, Tokyo, Toronto, Tunis, Turin,
Valencia, Vancouver, Venice, Vienna, Vilnius, Warsaw, Zagreb, Zurich, Buenos Aires, Cape Town, Hong Kong, Los
Angeles, Mexico City, New Orleans, New York, San Diego, San Francisco, Sao Paulo, Tel Aviv, Kuala Lumpur, Ho Chi
Minh City, Salt Lake City
"""
_FIRST_NAMES = """
Adam, Aisha, Alice, Amir, Anna, Ben, Carla, Chen, Clara, Daniel, David, Diego, Elena, Emma, Eric, Fatima, Felix,
Grace, Hana, Henry, Ines, Isaac, Ivan, Jack, Jane, Jonas, Julia, Kai, Karim, Laura, Leo, Lena, Liam, Lucia, Maria,
Marco, Maya, Mei, Mia, Noah, Nora, Olga, Omar, Oscar, Paul, Priya, Rosa, Ruth, Sam, Sara, Sofia, Tom, Uma, Victor,
Wei, Yara, Zoe
"""
_LAST_NAMES = """
Abbott, Ahmed, Baker, Bauer, Brown, Chen, Costa, Cruz, Davis, Diaz, Evans, Fischer, Garcia, Gupta, Hansen, Ito,
Jensen, Johnson, Kaya, Kim, Kowalski, Lee, Lopez, Martin, Meyer, Moreau, Nguyen, Novak, Okafor, Olsen, Park, Patel,
Perez, Rossi, Ryan, Sato, Silva, Singh, Smith, Tanaka, Taylor, Torres, Wagner, Walker, Weber, White, Wilson, Wong,
Young
"""


def _listed(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.replace("\n", " ").split(",") if name.strip())


CITIES, FIRST_NAMES, LAST_NAMES = _listed(_CITIES), _listed(_FIRST_NAMES), _listed(_LAST_NAMES)
