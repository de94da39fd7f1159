//! Managed policies that AWS provides, under their ARNs (arn:aws:iam::aws:policy/NAME), as far as they make sense
//! here: AWS Managed Policy Reference Guide.

use std::sync::OnceLock;

use super::PolicyRow;

/// Name, id, version, when it was made and last changed (seconds), document.
const ALL: [(&str, &str, u32, i64, &str); 4] = [
    (
        "AdministratorAccess",
        "ANPAIWMBCKSKIEE64ZLYK",
        1,
        1_423_247_966,
        r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}"#,
    ),
    (
        "AWSKeyManagementServicePowerUser",
        "ANPAJNPP7PPPPMJRV2SA4",
        2,
        1_423_247_980,
        r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["kms:CreateAlias","kms:CreateKey","kms:DeleteAlias","kms:Describe*","kms:GenerateRandom","kms:Get*","kms:List*","kms:TagResource","kms:UntagResource","iam:ListGroups","iam:ListRoles","iam:ListUsers"],"Resource":"*"}]}"#,
    ),
    (
        "IAMFullAccess",
        "ANPAI7XKCFMBPM3QQRRVQ",
        2,
        1_423_247_978,
        r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["iam:*","organizations:DescribeAccount","organizations:DescribeOrganization","organizations:DescribeOrganizationalUnit","organizations:DescribePolicy","organizations:ListChildren","organizations:ListParents","organizations:ListPoliciesForTarget","organizations:ListRoots","organizations:ListPolicies","organizations:ListTargetsForPolicy"],"Resource":"*"}]}"#,
    ),
    (
        "IAMReadOnlyAccess",
        "ANPAJKSO7NDY4T57MWDSQ",
        4,
        1_423_247_979,
        r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["iam:GenerateCredentialReport","iam:GenerateServiceLastAccessedDetails","iam:Get*","iam:List*","iam:SimulateCustomPolicy","iam:SimulatePrincipalPolicy"],"Resource":"*"}]}"#,
    ),
];

/// All of them, by name.
pub fn provided() -> &'static [PolicyRow] {
    static ROWS: OnceLock<Vec<PolicyRow>> = OnceLock::new();
    ROWS.get_or_init(|| {
        let row = |&(name, id, version, created, document): &(&str, &str, u32, i64, &str)| PolicyRow {
            name: name.to_owned(),
            path: "/".to_owned(),
            id: id.to_owned(),
            created: created * 1000,
            updated: created * 1000,
            description: None,
            tags: Vec::new(),
            default: version,
            next: version + 1,
            versions: vec![(version, created * 1000, document.to_owned())],
        };
        ALL.iter().map(row).collect()
    })
}
