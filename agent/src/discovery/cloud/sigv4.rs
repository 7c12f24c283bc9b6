//! AWS Signature Version 4, for requests whose body is at hand. Checked against AWS's published test suite.

use ring::{digest, hmac};

use super::encoded;
use crate::core::Secret;

/// Who signs, for what, when.
pub struct Signer<'a> {
    /// Access key id.
    pub key_id: &'a str,
    /// Secret access key.
    pub secret: &'a Secret,
    /// Region.
    pub region: &'a str,
    /// Service, as in the scope of the signature.
    pub service: &'a str,
    /// Seconds since 1970.
    pub unix: i64,
}

/// What is signed.
pub struct Signed<'a> {
    /// Method in capitals.
    pub method: &'a str,
    /// Path, encoded.
    pub path: &'a str,
    /// Query, not encoded.
    pub query: &'a [(&'a str, &'a str)],
    /// Headers in lower case, `host` and `x-amz-date` among them.
    pub headers: &'a [(&'a str, &'a str)],
    /// Body.
    pub body: &'a [u8],
}

/// The moment as `x-amz-date` has it: `20150830T123600Z`.
#[must_use]
pub fn date(unix: i64) -> String {
    let (days, seconds) = (unix.div_euclid(86_400), unix.rem_euclid(86_400));
    // Days since 1 March of year 0, in eras of 400 years (Hinnant's civil_from_days).
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day = shifted.rem_euclid(146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * month + 2) / 5 + 1;
    let calendar = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(calendar <= 2);
    format!(
        "{year:04}{calendar:02}{of_month:02}T{:02}{:02}{:02}Z",
        seconds / 3_600,
        seconds / 60 % 60,
        seconds % 60
    )
}

/// The value of the `authorization` header.
#[must_use]
pub fn authorization(signer: &Signer<'_>, request: &Signed<'_>) -> String {
    let sha = |bytes: &[u8]| hex::encode(digest::digest(&digest::SHA256, bytes));
    let mut headers: Vec<(&str, String)> = request
        .headers
        .iter()
        .map(|(name, value)| (*name, value.split_whitespace().collect::<Vec<_>>().join(" ")))
        .collect();
    headers.sort();
    let names = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let lines: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let mut query: Vec<(String, String)> =
        request.query.iter().map(|(name, value)| (encoded(name), encoded(value))).collect();
    query.sort();
    let query = query.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&");
    let canonical =
        format!("{}\n{}\n{query}\n{lines}\n{names}\n{}", request.method, request.path, sha(request.body));
    let moment = date(signer.unix);
    let day = &moment[..8];
    let scope = format!("{day}/{}/{}/aws4_request", signer.region, signer.service);
    let to_sign = format!("AWS4-HMAC-SHA256\n{moment}\n{scope}\n{}", sha(canonical.as_bytes()));
    let start = zeroize::Zeroizing::new(format!("AWS4{}", signer.secret.expose()).into_bytes());
    let mut key = hmac::Key::new(hmac::HMAC_SHA256, &start);
    for part in [day, signer.region, signer.service, "aws4_request"] {
        key = hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, part.as_bytes()).as_ref());
    }
    let signature = hex::encode(hmac::sign(&key, to_sign.as_bytes()));
    format!(
        "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
        signer.key_id
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATE: (&str, &str) = ("x-amz-date", "20150830T123600Z");
    const HOST: (&str, &str) = ("host", "example.amazonaws.com");

    fn signature(service: &str, request: &Signed<'_>) -> String {
        let secret = Secret::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned());
        let signer = Signer {
            key_id: "AKIDEXAMPLE",
            secret: &secret,
            region: "us-east-1",
            service,
            unix: 1_440_938_160,
        };
        let text = authorization(&signer, request);
        text.rsplit_once("Signature=").unwrap().1.to_owned()
    }

    /// From AWS's Signature Version 4 test suite (`aws-sig-v4-test-suite`), by the names of its cases, and the example of its guide.
    #[test]
    fn the_published_test_vectors() {
        let get = |query| Signed { method: "GET", path: "/", query, headers: &[HOST, DATE], body: b"" };
        let post = |headers, body| Signed { method: "POST", path: "/", query: &[], headers, body };
        // The suite's own session token, from its `post-sts-token`.
        let token = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7\
                     mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT\
                     38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==";
        let session = [HOST, DATE, ("x-amz-security-token", token)];
        let form = [("content-type", "application/x-www-form-urlencoded"), HOST, DATE];
        let cases = [
            ("get-vanilla", get(&[]), "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
            (
                "get-vanilla-query-order-key-case",
                get(&[("Param2", "value2"), ("Param1", "value1")]),
                "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
            ),
            (
                "post-vanilla",
                post(&[HOST, DATE], b""),
                "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
            ),
            (
                "post-x-www-form-urlencoded",
                post(&form, b"Param1=value1"),
                "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
            ),
            (
                "post-sts-header-before",
                post(&session, b""),
                "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead",
            ),
        ];
        for (name, request, wanted) in cases {
            assert_eq!(signature("service", &request), wanted, "{name}");
        }
        let users = Signed {
            method: "GET",
            path: "/",
            query: &[("Action", "ListUsers"), ("Version", "2010-05-08")],
            headers: &[
                ("content-type", "application/x-www-form-urlencoded; charset=utf-8"),
                ("host", "iam.amazonaws.com"),
                DATE,
            ],
            body: b"",
        };
        let wanted = "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7";
        assert_eq!(signature("iam", &users), wanted);
    }

    #[test]
    fn moments_are_written_as_the_calendar_has_them() {
        for (unix, wanted) in [
            (0, "19700101T000000Z"),
            (1_440_938_160, "20150830T123600Z"),
            (951_782_399, "20000228T235959Z"),
            (951_782_400, "20000229T000000Z"),
            (4_107_542_399, "21000228T235959Z"),
            (4_107_542_400, "21000301T000000Z"),
        ] {
            assert_eq!(date(unix), wanted);
        }
    }
}
